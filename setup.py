"Package facts come from settings.ini, so that nbdev and pip read one file."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
facts = config["DEFAULT"]

EXTRAS = "adapt reproduce gpu caption metrics parquet heic peers notebook docs cluster dev".split()
extras = {name: facts[f"{name}_requirements"].split() for name in EXTRAS}
extras["reproduce"] += extras["adapt"]
extras["docs"] += extras["reproduce"]
extras["dev"] += [requirement for name in EXTRAS if name not in ("dev", "peers", "cluster") for requirement in extras[name]]
extras["dev"] = sorted(set(extras["dev"]))

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
    package_data={"iqa_repro": ["*/*.toml", "app/cli/*.toml", "data/sets/*.toml", "weights/*.safetensors", "*/*.csv", "study/printed_values/*.csv", "*/*.j2", "py.typed"]},
    install_requires=facts["requirements"].split(),
    entry_points={"console_scripts": facts["console_scripts"].split()},
    extras_require=extras,
    zip_safe=False,
)
