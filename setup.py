"Package facts come from settings.ini, so that nbdev and pip read one file."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
facts = config["DEFAULT"]

setup(
    name=facts["lib_name"],
    version=facts["version"],
    description=facts["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=facts["author"],
    keywords=facts["keywords"],
    license="Apache-2.0",
    python_requires=f">={facts['min_python']}",
    packages=find_packages(include=["iqa_repro", "iqa_repro.*"]),
    package_data={"iqa_repro": ["profiles/*.toml", "weights/*.safetensors", "data/*.csv", "study/printed_values/*.csv", "study/*.j2"]},
    install_requires=facts["requirements"].split(),
    entry_points={"console_scripts": facts["console_scripts"].split()},
    extras_require={
        "caption": facts["caption_requirements"].split(),  # a captioner on this machine
        "cluster": facts["cluster_requirements"].split(),  # Snakemake's executors for Slurm and Kubernetes
        "dev": facts["dev_requirements"].split(),
    },
    zip_safe=False,
)
