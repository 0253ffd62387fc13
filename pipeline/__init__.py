"""From raw video to WebDataset shards and a manifest."""

if __name__ == "pipeline":  # `python -m pipeline` in a checkout: one module has one name
    import sys

    import lipforge.pipeline

    sys.modules[__name__] = lipforge.pipeline
