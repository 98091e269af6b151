rule sample:
    input:
        plans=lambda w: plans_of(w.group),
        weights=lambda w: fetched(
            *{r.experiment.model for r in ROWS if group_of(r) == w.group}
        ),
    output:
        f"{OUT}/samples/{{group}}/shard{{shard}}.json",
    log:
        f"{OUT}/logs/sample/{{group}}_{{shard}}.log",
    benchmark:
        f"{OUT}/benchmarks/sample/{{group}}_{{shard}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=int(CONFIG["scale"] == "paper"),
    params:
        first=lambda w: shard_range(int(w.shard))[0],
        images=lambda w: shard_range(int(w.shard))[1],
        chunk=CONFIG["sampling"]["chunk"],
        batch=CONFIG["sampling"]["batch"],
        folder=f"{OUT}/samples/images",
        code=provenance.source_hash(*shards.SOURCES),
    message:
        "Drawing {params.images} images a method: {wildcards.group}, from image {params.first}"
    shell:
        "harmonica sample {input.plans} --first {params.first} --images {params.images} "
        "--chunk {params.chunk} --batch {params.batch} -o {params.folder} --manifest {output} > {log} 2>&1"
