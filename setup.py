"""What pyproject.toml cannot say: folders of the source that are installed under another name.

studies/ lies inside the package, and `import lorasweep` is bench/api/lorasweep.
"""

from setuptools import find_packages, setup

STUDIES = ".".join(("bench", "studies"))

setup(
    packages=[*find_packages(include=["bench*", "plots*"]), STUDIES, f"{STUDIES}.claims", "lorasweep"],
    package_dir={STUDIES: "studies", f"{STUDIES}.claims": "studies/claims", "lorasweep": "bench/api/lorasweep"},
)
