"""What pyproject.toml cannot say: the folder studies/ is installed inside the package."""

from setuptools import find_packages, setup

STUDIES = ".".join(("bench", "studies"))

setup(packages=[*find_packages(include=["bench*", "plots*"]), STUDIES], package_dir={STUDIES: "studies"})
