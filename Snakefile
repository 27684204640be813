# The batch as Snakemake sees it: what comes before what, and what to call. Everything else is in graph.json, which
# `iqa-repro reproduce` writes (nbs/8_batch/05_graph). By hand: snakemake --config graph=<…>/.batch/graph.json --cores 2
import json
import os
import sys
from pathlib import Path

if started_by := os.environ.pop("IQA_REPRO_ENGINE_PID", ""):  # the engine ends with the command that started it
    from iqa_repro.batch.jobs import end_with

    end_with(int(started_by))

jobs = {job["name"]: job for job in json.loads(Path(config["graph"]).read_text(encoding="utf-8"))["jobs"]}
stages = [job for job in jobs.values() if job["kind"] != "notebook"]  # of models and captions, and shares of trials
CALL = "{sys.executable:q} -m iqa_repro.batch.jobs {config[graph]:q} {params.job:q} > {log:q} 2>&1"


def needed(*alike):
    return {
        "mem_mb": max(job["memory_mib"] for job in alike),
        "runtime": max(job["minutes"] for job in alike),
    } | ({"gpu": 1} if any(job["gpu"] for job in alike) else {})


def marks(job):  # of what comes before it; what is made already is no job
    return [f"made/{name}" for name in job["reads"] if name in jobs]


localrules:
    all,


rule all:
    input:
        [f"made/{name}" for name in jobs],


for job in jobs.values():  # a rule a notebook

    if job["kind"] == "notebook":

        rule:
            name:
                job["name"].replace("/", "_")
            input:
                marks(job),
            output:
                touch(f"made/{job['name']}"),
            log:
                f"logs/{job['name']}.log",
            params:
                job=job["name"],
            priority: int(job["seconds"])
            resources:
                **needed(job),
            shell:
                CALL


if stages:

    rule stage:
        input:
            lambda wildcards: marks(jobs[wildcards.stage]),
        output:
            touch("made/{stage}"),
        log:
            "logs/{stage}.log",
        params:
            job="{stage}",
        wildcard_constraints:
            stage="|".join(job["name"] for job in stages),
        priority: 10**6  # others wait for it
        resources:
            **needed(*stages),
        shell:
            CALL
