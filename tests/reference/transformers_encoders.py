"""Writes data/transformers_encoders.safetensors: what transformers computes for BERT and CLIP.

    pip install torch==2.11.0 transformers==5.24.0 safetensors==0.8.0
    python3 tests/reference/transformers_encoders.py

The tests of plugins/src/encoder/{bert,clip_text,clip_image}.rs read the file. Each model is built
twice, tiny and at its published width with two layers. Weights come from the formula of `weight`,
which the tests compute too, so that inputs and outputs alone are stored: features, and gradients
of the sum of the squared feature. No published weights and no files of others are needed.

Measured, as shares of the largest value: the same models in 64-bit numbers differ by at most 4e-6,
with the other form of gelu by 1.6e-4 and more, with other constants of LayerNorm (2e-5 for 1e-5,
1e-5 for 1e-12) by 1.5e-5 and more, with scores 5 % too large by 8e-3 and more.
"""

import math
import pathlib

import torch
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

LONGEST_GRADIENT = 1024  # entries of a gradient that are stored, spread evenly over it
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


def weight(path, shape):
    """Makes the weight of this name, as `fill_by_chirp` of plugins/src/encoder/fixture.rs does."""
    position_sum = sum((place + 1) * byte for place, byte in enumerate(path.encode()))
    phase = position_sum % 1000 / 100.0
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    wave = torch.sin(0.001 * index * index + 0.37 * index + phase)
    if len(shape) >= 2:
        values = wave * (2.0 / math.sqrt(math.prod(shape[1:])))
    elif path.endswith("weight"):
        values = 1.0 + 0.1 * wave
    else:
        values = 0.1 * wave
    return values.reshape(shape).float()


def fill(model):
    """Overwrites every parameter."""
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            parameter.copy_(weight(path, parameter.shape))
    return model.eval()


def texts(vocabulary, lengths, end):
    """Makes numbers of tokens, padded with 0; the last one of each text is `end`."""
    longest = max(lengths)
    ids = torch.zeros(len(lengths), longest, dtype=torch.int64)
    for row, length in enumerate(lengths):
        for place in range(length):
            ids[row, place] = 1 + (11 * row + 7 * place) % (vocabulary - 2)
        ids[row, length - 1] = end
    mask = (torch.arange(longest)[None] < torch.tensor(lengths)[:, None]).long()
    return ids, mask


def picture(shape):
    """Makes values in [-1, 1], as `chirp` of plugins/src/encoder/fixture.rs does."""
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(0.001 * index * index).reshape(shape).float()


def gradients(model, feature, names):
    """Differentiates the sum of the squared feature."""
    weights = dict(model.named_parameters())
    found = torch.autograd.grad(feature.square().sum(), [weights[name] for name in names])
    return {
        f"gradient.{name}": gradient.flatten()[:: -(-gradient.numel() // LONGEST_GRADIENT)]
        for name, gradient in zip(names, found)
    }


def bert(**options):
    """Runs BERT with and without types."""
    model = BertModel(
        BertConfig(**options, attn_implementation="eager"), add_pooling_layer=False
    )
    model = fill(model)
    ids, mask = texts(options["vocab_size"], [9, 5, 1], end=3)
    types = (torch.arange(ids.shape[1]) > 3).long()[None] * mask
    plain = model(input_ids=ids, attention_mask=mask).last_hidden_state
    typed = model(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state
    weights = mask[..., None].float()
    names = [
        "embeddings.token_type_embeddings.weight",
        "encoder.layer.0.attention.self.key.weight",
        "encoder.layer.1.intermediate.dense.bias",
    ]
    return {
        "ids": ids,
        "mask": mask,
        "types": types,
        "cls": plain[:, 0],
        "mean": (plain * weights).sum(1) / weights.sum(1),
        "cls_of_types": typed[:, 0],
        **gradients(model, typed[:, 0], names),
    }


def clip_text(**options):
    """Runs CLIP's text tower; both of transformers' ways to find the end of a text agree."""
    end = options["vocab_size"] - 1
    special = {"bos_token_id": 0, "pad_token_id": 0, "eos_token_id": end}
    config = CLIPTextConfig(**options, **special, attn_implementation="eager")
    model = fill(CLIPTextModelWithProjection(config))
    ids, mask = texts(options["vocab_size"], [9, 5, 2], end)
    output = model(input_ids=ids, attention_mask=mask)
    config.eos_token_id = 2
    by_largest = fill(CLIPTextModelWithProjection(config))(input_ids=ids, attention_mask=mask)
    assert torch.equal(output.text_embeds, by_largest.text_embeds)
    last = output.last_hidden_state[torch.arange(len(ids)), mask.sum(1) - 1]
    assert torch.equal(model.text_projection(last), output.text_embeds)
    names = [
        "text_model.embeddings.position_embedding.weight",
        "text_model.encoder.layers.0.self_attn.q_proj.weight",
        "text_model.encoder.layers.1.mlp.fc2.bias",
    ]
    return {
        "ids": ids,
        "mask": mask,
        "projected": output.text_embeds,
        "pooled": last,
        **gradients(model, output.text_embeds, names),
    }


def clip_image(**options):
    """Runs CLIP's image tower."""
    config = CLIPVisionConfig(**options, attn_implementation="eager")
    model = fill(CLIPVisionModelWithProjection(config))
    side = options["image_size"]
    pixels = picture([2, 3, side, side])
    output = model(pixel_values=pixels)
    pooled = model.vision_model.post_layernorm(output.last_hidden_state[:, 0])
    assert torch.equal(model.visual_projection(pooled), output.image_embeds)
    names = [
        "vision_model.embeddings.class_embedding",
        "vision_model.embeddings.patch_embedding.weight",
        "vision_model.encoder.layers.1.mlp.fc1.bias",
    ]
    return {
        "projected": output.image_embeds,
        "pooled": pooled,
        **gradients(model, output.image_embeds, names),
    }


CASES = {
    "bert.tiny": (bert, {**TINY, "vocab_size": 50, "max_position_embeddings": 16}),
    "bert.wide": (
        bert,
        {"num_hidden_layers": 2, "vocab_size": 60, "max_position_embeddings": 32},
    ),
    "clip_text.tiny": (
        clip_text,
        {**TINY, "vocab_size": 50, "max_position_embeddings": 12, "projection_dim": 24},
    ),
    "clip_text.wide": (clip_text, {"num_hidden_layers": 2, "vocab_size": 60}),
    "clip_image.tiny": (
        clip_image,
        {**TINY, "image_size": 16, "patch_size": 4, "projection_dim": 24},
    ),
    "clip_image.wide": (clip_image, {"num_hidden_layers": 2, "image_size": 64}),
}


def main():
    """Writes every case under its name."""
    tensors = {}
    for case, (run, options) in CASES.items():
        for name, tensor in run(**options).items():
            tensors[f"{case}.{name}"] = tensor.detach().clone().contiguous()
    path = pathlib.Path(__file__).parent / "data" / "transformers_encoders.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_file(tensors, path)
    path.chmod(0o644)


if __name__ == "__main__":
    main()
