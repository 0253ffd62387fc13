"""The `lipforge` command: a thin front for what each folder also offers by itself."""

from lipforge.datasets_manifest.cli import app as manifest_app
from lipforge.pipeline.app.cli import app as app_app
from lipforge.pipeline.cli import app, main
from lipforge.pipeline.evaluate.cli import app as evaluate_app
from lipforge.pipeline.infer.cli import app as infer_app
from lipforge.train.cli import app as train_app
from lipforge.train.features.command import app as features_app

app.add_typer(manifest_app)
app.add_typer(app_app)
app.add_typer(features_app)
app.add_typer(evaluate_app)
app.add_typer(infer_app)
app.add_typer(train_app, name="train")

if __name__ == "__main__":
    main()
