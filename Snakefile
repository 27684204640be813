# The batch as Snakemake sees it: what comes before what, and what to call. Everything else is in graph.json, which
# `iqa-repro reproduce` writes (nbs/8_batch/06_graph). By hand: snakemake --config graph=<…>/.batch/graph.json --cores 2
import json
import os
import sys
from pathlib import Path

if started_by := os.environ.pop("IQA_REPRO_ENGINE_PID", ""):  # the engine ends with the command that started it
    from iqa_repro.batch.jobs import end_with

    end_with(int(started_by))

graph = json.loads(Path(config["graph"]).read_text(encoding="utf-8"))
jobs = {job["name"]: job for job in graph["jobs"]}
CALL = "{sys.executable:q} -m iqa_repro.batch.jobs {config[graph]:q} {params.job:q} > {log:q} 2>&1"
CALL += " && {{ test -e {output:q} || cp {params.stamp:q} {output:q}; }}"  # in a pod Snakemake expects a copy of its own


def place(path):  # where a pod finds it that works in a folder of its own
    return str(Path(graph["state"]) / path)


def needed(job):
    return {"mem_mb": job["memory_mib"], "runtime": job["minutes"]} | ({"gpu": 1} if job["gpu"] else {})


localrules:
    all,


rule all:
    input:
        [job["stamp"] for job in jobs.values()],


for job in jobs.values():  # a rule a notebook

    if job["kind"] == "notebook":

        rule:
            name:
                job["name"].replace("/", "_")
            input:
                job["inputs"],
            output:
                job["stamp"],
            log:
                job["log"],
            params:
                job=job["name"],
                stamp=place(job["stamp"]),
            priority: int(job["seconds"])
            resources:
                **needed(job),
            shell:
                CALL


for kind in sorted({job["kind"] for job in jobs.values()} - {"notebook"}):  # a rule a kind of stage
    stages = {job["stamp"]: job for job in jobs.values() if job["kind"] == kind}
    some = next(iter(stages.values()))
    ids = {Path(stamp).stem: job for stamp, job in stages.items()}

    rule:
        name:
            kind
        input:
            lambda wildcards, ids=ids: ids[wildcards.id]["inputs"],
        output:
            str(Path(some["stamp"]).parent / "{id}.json"),
        log:
            str(Path(some["log"]).parent / "{id}.log"),
        params:
            job=lambda wildcards, ids=ids: ids[wildcards.id]["name"],
            stamp=lambda wildcards, ids=ids: place(ids[wildcards.id]["stamp"]),
        wildcard_constraints:
            id="|".join(ids),
        priority: 10**6  # others wait for it
        resources:
            **needed(some),
        shell:
            CALL
