"""`python -m vae_zoo.cli.workspace <entity> [<project>]`: saves a W&B workspace with charts for the runs of vae_zoo.

Sections: weighted terms of the objective, KL of the blocks, metrics, figures with captions, the table of test numbers, the
block-factor matrix, throughput. Needs the internet, an account and `pip install wandb-workspaces`.
"""

import argparse
import sys

from vae_zoo.utils.launch import is_offline

FIGURES = ("reconstructions", "samples", "blocks", "kl_per_dimension")


def workspace(entity: str, project: str):
    """The workspace, not yet saved. Curves show mean and deviation over the runs of a W&B group, which is the sweep."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    def line(title: str, pattern: str, **options) -> wr.LinePlot:
        return wr.LinePlot(title=title, x="trainer/global_step", metric_regex=pattern, **options)

    sections = [
        ws.Section(
            name="Objective",
            panels=[
                line("weighted terms of the loss, nats", "train/weighted/.*"),
                line("loss, nats", "(train|val)/loss"),
                line("reconstruction, nats", "(train|val)/rec.*"),
            ],
            is_open=True,
        ),
        ws.Section(
            name="Blocks",
            panels=[line("KL of each block, nats", "(train|val)/kl.*"), line("active units", "val/active_units.*")],
            is_open=True,
        ),
        ws.Section(
            name="Metrics",
            panels=[
                line("during training", "val/(mig|dci.*|sap|factor_vae|beta_vae|modularity|accuracy|block/.*)"),
                wr.BarPlot(title="test/elbo, nats", metrics=["test/elbo"]),
                wr.BarPlot(title="test/mig", metrics=["test/mig"]),
                wr.WeavePanelSummaryTable(table_name="tables/test"),
            ],
            is_open=True,
        ),
        ws.Section(
            name="Figures",
            panels=[
                *(wr.MediaBrowser(title=name.replace("_", " "), media_keys=[f"figures/{name}"]) for name in FIGURES),
                wr.WeavePanelSummaryTable(table_name="tables/blocks"),
            ],
            is_open=True,
        ),
        ws.Section(name="System and throughput", panels=[line("images a second", "train/images_per_second")]),
    ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name="vae_zoo",
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis="trainer/global_step"),
        runset_settings=ws.RunsetSettings(groupby=[ws.Metric("Group")]),
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("entity", help="user or team")
    parser.add_argument("project", nargs="?", default="vae_zoo")
    options = parser.parse_args(arguments)
    if is_offline():
        print("error: a workspace can only be saved online; unset WANDB_MODE", file=sys.stderr)
        return 2
    print(workspace(options.entity, options.project).save().url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
