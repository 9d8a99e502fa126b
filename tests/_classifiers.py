"""A tiny sequence-classification model, made in the test: it looks for one word."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def bert_tokenizer(words: tuple[str, ...]) -> Any:
    """A word-level tokenizer with BERT's form of a pair: `[CLS] a [SEP] b [SEP]`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: i for i, word in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def classifier_folder(
    path: Path,
    *,
    word: str = "Sure",
    also: tuple[str, ...] = (),
    labels: tuple[str, ...] = ("safe", "harmful"),
    positions: int = 64,
    kind: str = "single_label_classification",
) -> Path:
    """A BERT of one layer whose second label wins exactly where `word`, or one of `also`, stands in the text; returns
    `path`.

    Only the word has an embedding; attention spreads it evenly to the first token, and the head reads it there.
    """
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer = bert_tokenizer((word, *also, "no", "yes", "I", "cannot", "help", "open", "a", "door"))
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=positions,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        problem_type=kind,
        pad_token_id=0,
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = BertForSequenceClassification(config).eval()
        bert, layer = model.bert, model.bert.encoder.layer[0]
        for parameter in bert.embeddings.parameters():
            if parameter.dim() == 2:
                parameter.zero_()
        table = bert.embeddings.word_embeddings.weight
        for known in (word, *also):
            table[tokenizer.convert_tokens_to_ids(known), 0] = 30.0
        attention = layer.attention.self
        for part in (attention.query, attention.key):
            part.weight.zero_()
        attention.value.weight.copy_(torch.eye(16))
        layer.attention.output.dense.weight.copy_(20 * torch.eye(16))
        layer.output.dense.weight.zero_()
        bert.pooler.dense.weight.zero_()
        bert.pooler.dense.weight[0, 0] = 1.0
        bert.pooler.dense.bias[0] = -1.5
        model.classifier.weight.zero_()
        model.classifier.weight[1, 0] = 8.0
        model.classifier.bias.zero_()
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
