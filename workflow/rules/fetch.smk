# External weights and files. Existing ones, downloaded or added by hand, are only checked.
rule fetch:
    output:
        f"{OUT}/fetched/{{name}}.json",
    log:
        f"{OUT}/logs/fetch/{{name}}.log",
    benchmark:
        f"{OUT}/benchmarks/fetch/{{name}}.tsv"
    priority: FIRST
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    message:
        "Fetching {wildcards.name}"
    shell:
        "harmonica fetch {wildcards.name} --done {output} > {log} 2>&1"


# The captions of a model, embedded by its text encoder; no other job loads the encoder.
rule embed:
    input:
        lambda w: fetched(w.model),
    output:
        f"{OUT}/captions/{{model}}.json",
    log:
        f"{OUT}/logs/embed/{{model}}.log",
    benchmark:
        f"{OUT}/benchmarks/embed/{{model}}.tsv"
    priority: FIRST
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        runtime=lambda w, attempt: attempt * minutes("embed", w.model),
        mem_mb=lambda w, attempt: attempt * memory_mb("embed", w.model),
    params:
        list=lambda w: get_model(w.model).captions.name,
        code=files.source_hash("models/captions.py", "models/embeddings.py"),
    message:
        "Embedding the captions of {wildcards.model}"
    shell:
        "HARMONICA_GPUS={resources.gpu} harmonica embed {wildcards.model} --done {output} > {log} 2>&1"


# The posterior moments of ImageNet, encoded by the autoencoder of a model; trainings on images read them.
rule moments:
    input:
        lambda w: fetched(w.model),
    output:
        f"{OUT}/moments/{{model}}/{{part}}.json",
    log:
        f"{OUT}/logs/moments/{{model}}_{{part}}.log",
    benchmark:
        f"{OUT}/benchmarks/moments/{{model}}_{{part}}.tsv"
    priority: lambda w: priority("moments", w.model, w.part)
    conda:
        ENVIRONMENT
    threads: 8
    resources:
        gpu=GPU,
        runtime=lambda w, attempt: attempt * minutes("moments", w.model, w.part),
        mem_mb=lambda w, attempt: attempt * memory_mb("moments", w.model, w.part),
    params:
        parts=lambda w: moments_parts(w.model),
        images=lambda w: str(get_model(w.model).training_images),
        code=files.source_hash("models/training_images.py"),
    message:
        "Encoding the training images of {wildcards.model}, part {wildcards.part}"
    shell:
        "HARMONICA_GPUS={resources.gpu} harmonica moments {wildcards.model} --part {wildcards.part} {params.parts} "
        "--workers {threads} --done {output} > {log} 2>&1"


# Reference statistics of the metrics: ADM's, with features of ADM's images, or those of a folder of pictures in the
# weights folder or a user's own, at the side of the images that are compared with them.
rule reference:
    input:
        lambda w: fetched(*reference_needs(w.name)),
    output:
        f"{OUT}/reference/{{side}}/{{name}}",
    log:
        f"{OUT}/logs/reference/{{side}}_{{name}}.log",
    benchmark:
        f"{OUT}/benchmarks/reference/{{side}}_{{name}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
    params:
        file=lambda w: reference_file(w.name),
        about=lambda w: reference_options(w.name),
        code=files.source_hash("evaluation/features", "evaluation/references.py"),
    message:
        "Features of the reference images in {wildcards.name}, {wildcards.side} pixels"
    shell:
        "HARMONICA_GPUS={resources.gpu} harmonica reference {params.file:q} --side {wildcards.side} {params.about} "
        "-o {output} > {log} 2>&1"
