"""Hand-made prepared data sets with graphs and without images."""

import json


def write_records(root, graphs, reports=None, split="train"):
    """A prepared data set without images, one study a graph."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.yaml").write_text("name: hand-made\n", encoding="utf-8")
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
    return {"box": box, "mentioned": mentioned, "abnormal": abnormal, "attributes": list(attributes)}
