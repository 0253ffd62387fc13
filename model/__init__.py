"""Networks, their weights and their maths: arrays in, values out."""

if __name__ == "model":  # `python -m model` in a checkout: one module has one name
    import sys

    import lipforge.model

    sys.modules[__name__] = lipforge.model
