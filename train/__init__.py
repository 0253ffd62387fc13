"""What training reads, and how the shipped scorers were made."""

if __name__ == "train":  # `python -m train.stream.preview` in a checkout: one module has one name
    import sys

    from lipforge import train
    from lipforge.train import features, scorers, stream

    rooms = {"train": train, "train.features": features, "train.scorers": scorers, "train.stream": stream}
    sys.modules.update(rooms)
