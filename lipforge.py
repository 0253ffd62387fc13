"""The `lipforge` command: a thin front for what each folder also offers by itself."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
