"""A stand-in for the Hugging Face hub: the part of its HTTP interface that huggingface_hub calls to make a repository,
commit to it, list it and download from it. Files are git's own, or LFS objects as the hub keeps *.safetensors."""

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

TOKEN, OWNER = "hf_of_this_test", "ada"


@dataclass
class Repository:
    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)  # name -> commit
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # id -> files by name
    messages: list[str] = field(default_factory=list)

    def commit(self, files: dict[str, bytes], message: str = "", branch: str = "main") -> str:
        """A commit of these files, and nothing else; its id."""
        known = [len(self.commits), sorted((k, hashlib.sha1(v).hexdigest()) for k, v in files.items())]
        sha = hashlib.sha1(json.dumps(known).encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.branches[branch] = sha
        self.messages.append(message)
        return sha

    def at(self, revision: str) -> str | None:
        return self.branches.get(revision) or (revision if revision in self.commits else None)

    def files(self, branch: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches[branch]]


class Hub:
    """The server. `lfs` are the endings of names whose files are LFS objects; `status` answers every request if set."""

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.lfs: tuple[str, ...] = ()
        self.status = 0
        self.damaged: dict[str, bytes] = {}  # what comes in place of a file
        self.requests: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def add(self, name: str, files: dict[str, bytes], private: bool = False) -> Repository:
        self.repositories[name] = made = Repository(private)
        made.commit(files)
        return made

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args):
        pass

    def _reply(self, status: int, body: bytes | dict | list = b"", **headers: str) -> None:
        data = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _fail(self, status: int, code: str) -> None:
        self._reply(status, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    def _may_write(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _begin(self) -> list[str] | None:
        """The parts of the path; None if the request has been answered."""
        path = urlsplit(self.path).path
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.status:
            self._body()
            self._reply(self.hub.status, {"error": "as set"})
            return None
        return [unquote(part) for part in path.strip("/").split("/")]

    def _found(self, name: str, revision: str) -> tuple[Repository, str] | None:
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and not self._may_write()):
            self._fail(404 if self._may_write() else 401, "RepoNotFound")
            return None
        sha = repository.at(revision)
        if sha is None:
            self._fail(404, "RevisionNotFound")
            return None
        return repository, sha

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        parts = self._begin()
        if parts is None:
            return
        if parts[:2] == ["api", "models"] and parts[4:5] == ["tree"]:
            self._tree("/".join(parts[2:4]), parts[5])
        elif parts[:2] == ["api", "models"]:
            self._info("/".join(parts[2:4]), parts[5] if parts[4:5] == ["revision"] else "main")
        elif parts[2:3] == ["resolve"]:
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._fail(404, "NoSuchRoute")

    def _info(self, name: str, revision: str) -> None:
        found = self._found(name, revision)
        if found:
            repository, sha = found
            files = [{"rfilename": k, "size": len(v)} for k, v in repository.commits[sha].items()]
            self._reply(200, {"id": name, "sha": sha, "private": repository.private, "siblings": files})

    def _tree(self, name: str, revision: str) -> None:
        found = self._found(name, revision)
        if found:
            files = found[0].commits[found[1]].items()
            self._reply(200, [self._entry(k, v) for k, v in files])

    def _entry(self, file: str, data: bytes) -> dict:
        entry = {"type": "file", "path": file, "size": len(data), "oid": _git_hash(data)}
        if file.endswith(self.hub.lfs or ("/",)):
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        return entry

    def _file(self, name: str, revision: str, file: str) -> None:
        found = self._found(name, revision)
        if not found:
            return
        data = found[0].commits[found[1]].get(file)
        if data is None:
            self._fail(404, "EntryNotFound")
            return
        data = self.hub.damaged.get(file, data)
        tag = f'"{hashlib.sha256(data).hexdigest() if file.endswith(self.hub.lfs or ("/",)) else _git_hash(data)}"'
        self._reply(200, data, ETag=tag, X_Repo_Commit=found[1], X_Linked_Size=str(len(data)))

    def do_POST(self):
        parts = self._begin()
        if parts is None:
            return
        body = self._body()
        if parts == ["api", "validate-yaml"]:
            self._validate(json.loads(body)["content"])
        elif not self._may_write():
            self._fail(401, "Unauthorized")
        elif parts == ["api", "repos", "create"]:
            self._create(json.loads(body))
        elif parts[2:] == ["info", "lfs", "objects", "batch"]:
            self._batch(json.loads(body))
        elif parts[0] != "api" or parts[2] != OWNER:
            self._fail(403, "Forbidden")
        else:
            self._change("/".join(parts[2:4]), parts[4], parts[5], body)

    def do_PUT(self):
        if parts := self._begin():
            data = self._body()
            assert hashlib.sha256(data).hexdigest() == parts[1]
            self.hub.objects[parts[1]] = data
            self._reply(200)

    def _validate(self, readme: str) -> None:
        """The hub's check of a card's front matter, as far as that it is YAML."""
        try:
            about = yaml.safe_load(readme.split("---\n")[1])
            assert isinstance(about, dict) and isinstance(about["tags"], list)
            self._reply(200, {"warnings": [], "errors": []})
        except (yaml.YAMLError, AssertionError, KeyError, IndexError) as e:
            self._reply(400, {"errors": [{"message": str(e)}], "warnings": []})

    def _create(self, given: dict) -> None:
        name = f"{given.get('organization') or OWNER}/{given['name']}"
        if not name.startswith(f"{OWNER}/"):
            self._fail(403, "Forbidden")
        elif name in self.hub.repositories:
            self._reply(409, {"url": f"{self.hub.endpoint}/{name}", "error": "You already created this model repo"})
        else:
            private = given.get("visibility") == "private" or given.get("private") is True
            self.hub.add(name, {".gitattributes": b"*.safetensors filter=lfs\n"}, private)
            self._reply(200, {"url": f"{self.hub.endpoint}/{name}"})

    def _batch(self, given: dict) -> None:
        objects = [
            o | {"actions": {"upload": {"href": f"{self.hub.endpoint}/lfs/{o['oid']}"}}} for o in given["objects"]
        ]
        self._reply(200, {"transfer": "basic", "objects": objects})

    def _change(self, name: str, what: str, revision: str, body: bytes) -> None:
        """A new branch, what is to be uploaded how, or a commit."""
        found = self._found(name, "main" if what == "branch" else revision)
        if not found:
            return
        repository, sha = found
        if what == "branch":
            known = revision in repository.branches
            repository.branches.setdefault(revision, sha)
            self._reply(409 if known else 200, {})
        elif what == "preupload":
            files = [
                {"path": f["path"], "shouldIgnore": False, "oid": None,
                 "uploadMode": "lfs" if f["path"].endswith(self.hub.lfs or ("/",)) else "regular"}
                for f in json.loads(body)["files"]
            ]  # fmt: skip
            self._reply(200, {"files": files})
        else:
            self._commit(name, repository, sha, revision, [json.loads(line) for line in body.splitlines()])

    def _commit(self, name: str, repository: Repository, sha: str, branch: str, lines: list[dict]) -> None:
        header, *operations = lines
        if header["value"].get("parentCommit", sha) != sha:
            self._fail(412, "ParentMoved")
            return
        files = dict(repository.commits[sha])
        for line in operations:
            value = line["value"]
            lfs = line["key"] == "lfsFile"
            files[value["path"]] = self.hub.objects[value["oid"]] if lfs else base64.b64decode(value["content"])
        new = repository.commit(files, header["value"]["summary"], branch)
        self._reply(200, {"success": True, "commitOid": new, "commitUrl": f"{self.hub.endpoint}/{name}/commit/{new}"})


def _git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
