rule sample:
    input:
        plans=lambda w: plans([r.slug for r in rows_of_group(w.table, w.group)]),
        compressions=lambda w: compressions_of(rows_of_group(w.table, w.group)),
        parts=lambda w: parts_of(rows_of_group(w.table, w.group)),
        networks=lambda w: networks_while_sampling(
            w.table, rows_of_group(w.table, w.group)
        ),
        checked=lambda w: [
            x for r in rows_of_group(w.table, w.group) for x in checked(r)
        ],
    output:
        f"{OUT}/samples/{{table}}/{{group}}/shard{{shard}}.json",
    log:
        f"{OUT}/logs/sample/{{table}}_{{group}}_{{shard}}.log",
    benchmark:
        f"{OUT}/benchmarks/sample/{{table}}_{{group}}_{{shard}}.tsv"
    priority: lambda w: priority("sample", w.table, w.group, w.shard)
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        runtime=lambda w, attempt: attempt
        * minutes("sample", w.table, w.group, w.shard),
        mem_mb=lambda w, attempt: attempt
        * memory_mb("sample", w.table, w.group, w.shard),
    params:
        first=lambda w: shard_range(w.table, w.group, int(w.shard))[0],
        images=lambda w: shard_range(w.table, w.group, int(w.shard))[1],
        chunk=lambda w: TABLES[w.table]["sampling"]["chunk"],
        options=lambda w: sampling_options(w.table, w.group),
        seed=lambda w: TABLES[w.table]["seed"],
        compression=lambda w: compression_option(rows_of_group(w.table, w.group)),
        folder=SAMPLES,
        data=lambda w: models_data(rows_of_group(w.table, w.group)),
        code=lambda w: files.source_hash(
            *generate.SOURCES,
            *RECORDS,
            *(
                generate.COMPRESSED
                if compressions_of(rows_of_group(w.table, w.group))
                else []
            ),
            *(
                generate.COMPILED
                if TABLES[w.table]["sampling"].get("compiled")
                else []
            ),
        ),
    message:
        "Generating {params.images} images per method for {wildcards.table}: {wildcards.group}, from image {params.first}"
    shell:
        "HARMONICA_GPUS={resources.gpu} harmonica sample {input.plans} {params.compression} --first {params.first} "
        "--images {params.images} --chunk {params.chunk} --seed {params.seed} {params.options} -o {params.folder:q} "
        "--manifest {output} > {log} 2>&1"
