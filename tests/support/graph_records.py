"""Prepared data sets with hand-made graphs, without images."""

import json


def write_records(root, graphs, reports=None, split="train"):
    """Write a prepared data set without images, one study per graph; appends to an existing one."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.yaml").write_text("name: hand-made\ncounts: {}\n", encoding="utf-8")
    lines = []
    for number, graph in enumerate(graphs):
        report = reports[number] if reports else "Clear."
        lines.append(json.dumps({
            "id": f"{split}{number}", "split": split, "images": ["x.png"], "views": ["PA"], "report": report,
            "observations": None, "graph": None if graph is None else {"regions": graph},
        }))
    with (root / "records.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    return root


def region(box=None, attributes=(), mentioned=True, abnormal=False):
    """The entry of a region in a graph."""
    return {"box": box, "mentioned": mentioned, "abnormal": abnormal, "attributes": list(attributes)}
