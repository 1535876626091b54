"""The verbs of the command line: module whose `configure(parser)` adds the arguments and sets `run`, extra of the package that it needs, one line of help."""

from __future__ import annotations

VERBS = {
    "demo": ("rwtrain.demo", "all", "run the whole path on the sample data: pages to a loaded Hugging Face folder"),
    "prep": ("data_prep.command", "prep", "turn corpora into filtered, deduplicated, entity-linked, tokenised shards"),
    "tokenizer": ("data_prep.tokenizer_command", "prep", "train or inspect a sentencepiece tokenizer"),
    "pairs": ("data_prep.pairs_command", "prep", "turn pairs of texts into shards for the text contrast"),
    "kg": ("rwtrain.knowledge.command", "prep", "import a knowledge graph, train TransE, look at entities"),
    "link": ("rwtrain.knowledge.link_command", "prep", "link the entities in a text"),
    "plan": ("rwtrain.train.plan_command", "train", "work out the memory, time and cost of a training run before it starts"),
    "train": ("rwtrain.train.command", "train", "train a model with DeepSpeed"),
    "launch": ("launch.command", "train", "submit jobs to Slurm, ssh hosts, Kubernetes or this machine, and look after them"),
    "finetune": ("rwtrain.finetune.command", "train", "fine-tune a model for a task, and judge it"),
    "report": ("rwtrain.train.report_command", "train", "show a training run as one HTML page"),
    "checkpoint": ("rwtrain.train.checkpoint_command", "train", "list, verify, prune and convert the checkpoints of a run"),
    "eval": ("rwtrain.evaluate.command", "train", "evaluate a checkpoint, an export or a knowledge graph"),
    "answer": ("rwtrain.apps.answer_command", "apps", "index documents and answer questions from them, or from the graph"),
    "recommend": ("rwtrain.apps.recommend_command", "apps", "learn from histories what comes next, recommend, and say why"),
    "write": ("rwtrain.apps.write_command", "apps", "continue, correct and fill text with an exported model"),
    "look": ("rwtrain.apps.look_command", "apps", "look inside: links, gates, near entities and images, attention to images"),
    "serve": ("rwtrain.apps.serve_command", "apps", "serve the applications as a web page"),
    "export": ("rwtrain.export.command", "train", "write a Hugging Face folder from a checkpoint and prove that it loads"),
    "import": ("rwtrain.export.import_command", "train", "turn an exported folder back into a training start"),
}
