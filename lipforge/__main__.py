"""The `lipforge` command: a thin front for what each folder also offers by itself."""

from lipforge.datasets_manifest.cli import app as manifest_app
from lipforge.pipeline.cli import app, main
from lipforge.train.features.command import app as features_app

app.add_typer(manifest_app)
app.add_typer(features_app)

if __name__ == "__main__":
    main()
