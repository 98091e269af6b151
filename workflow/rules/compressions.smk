# A compressed model, which rows of a table run on; it is calibrated, and maybe trained, once for all of them.
rule compress:
    input:
        lambda w: compressor_needs(COMPRESSED[w.compressed]),
    output:
        f"{OUT}/compressions/{{compressed}}.safetensors",
    log:
        f"{OUT}/logs/compress/{{compressed}}.log",
    benchmark:
        f"{OUT}/benchmarks/compress/{{compressed}}.tsv"
    wildcard_constraints:
        compressed=one_of(list(COMPRESSED)),
    priority: 50  # routers that are trained on it wait
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        runtime=lambda w, attempt: attempt * minutes("compress", w.compressed),
        mem_mb=lambda w, attempt: attempt * memory_mb("compress", w.compressed),
    params:
        arguments=lambda w: COMPRESSED[w.compressed].arguments,
        options=lambda w: compression_options(COMPRESSED[w.compressed]),
        code=lambda w: files.source_hash(
            compressor_file(COMPRESSED[w.compressed].name),
            "compression",
            "models/loading.py",
            "models/training_images.py",
            *files.SAMPLING,
        ),
        data=lambda w: compressor_data(COMPRESSED[w.compressed]),
    message:
        "Compressing: {wildcards.compressed}"
    shell:
        "HARMONICA_GPUS={resources.gpu} harmonica compress {params.arguments} {params.options} -o {output} > {log} 2>&1"
