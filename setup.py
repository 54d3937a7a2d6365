"""What pyproject.toml cannot say: the folder studies/ is installed inside the package, as bench/studies."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["bench*", "plots*"]), "bench.studies"],
    package_dir={"bench.studies": "studies"},
)
