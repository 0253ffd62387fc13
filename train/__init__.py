"""What training reads, and how the shipped scorers were made."""

if __name__ == "train":  # `python -m train` in a checkout: one module has one name
    import sys

    import lipforge.train

    sys.modules[__name__] = lipforge.train
