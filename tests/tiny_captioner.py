"A LLaVA of random weights: the true architecture and file layout, small enough for tests and for the notebook of captioners."

from pathlib import Path

import tokenizers as tk
import torch
import transformers as hf

# fmt: off
WORDS = """a the of in on and with is this image photo picture sharp blurry noisy bright dark colourful grainy clear detailed low high
quality contrast cat dog house tree person street sky water user assistant describe rate what how good bad . , ?"""
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} {% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{{ '<image>' if c['type'] == 'image' else c.get('text', '') }} {% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %}assistant{% endif %}"
)
# fmt: on


def _tokenizer():
    names = dict(pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    words = [*names.values(), "<image>", *WORDS.split()]
    rule = tk.Tokenizer(tk.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    rule.normalizer, rule.pre_tokenizer = tk.normalizers.Lowercase(), tk.pre_tokenizers.Whitespace()
    named = dict(extra_special_tokens=["<image>"], chat_template=TEMPLATE, **names)
    return hf.PreTrainedTokenizerFast(tokenizer_object=rule, padding_side="left", **named)


def _config(words, ids):
    size = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    eye = dict(model_type="clip_vision_model", image_size=28, patch_size=14, projection_dim=32, **size)
    text = dict(model_type="llama", vocab_size=len(words), max_position_embeddings=2048, **ids, **size)
    image = dict(image_token_id=words.convert_tokens_to_ids("<image>"), image_seq_length=4)
    return hf.LlavaConfig(vision_config=eye, text_config=text, vision_feature_layer=-1, **image)


def make_tiny_captioner(folder: Path, seed: int = 0) -> Path:
    "Write 60 thousand random weights with their configuration into a folder, which then serves as the model's name"
    words = _tokenizer()
    ids = {key: getattr(words, key) for key in ("pad_token_id", "bos_token_id", "eos_token_id")}
    config = _config(words, ids)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = hf.LlavaForConditionalGeneration(config)
    mute = [ids["pad_token_id"], ids["bos_token_id"], words.unk_token_id, config.image_token_id]
    model.generation_config = hf.GenerationConfig(**ids, suppress_tokens=mute, min_new_tokens=6)
    eye = hf.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    shape = dict(patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1)
    processor = hf.LlavaProcessor(eye, words, chat_template=TEMPLATE, **shape)
    model.save_pretrained(folder), processor.save_pretrained(folder)
    return Path(folder)
