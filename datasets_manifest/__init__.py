"""What is in a dataset: storage, samples, the manifest, and choosing from it."""

if __name__ == "datasets_manifest":  # `python -m datasets_manifest` in a checkout: one module has one name
    import sys

    import lipforge.datasets_manifest

    sys.modules[__name__] = lipforge.datasets_manifest
