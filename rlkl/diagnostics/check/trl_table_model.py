"""The model that TRL trains in a check: a policy whose logits are a table, and which generates what it is told to.

The tokens of the automaton are 0 ... V-1, and V is the prompt. Where sequences differ in length, token 0 ends one, and is the
padding, too; elsewhere both are V+1, and never occur.
"""

from typing import Any

import numpy as np
import torch
import trl  # noqa: F401  before transformers: older releases import it in a way of their own
from jaxtyping import Float, Int
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    TrainerCallback,
)
from transformers.generation import GenerateDecoderOnlyOutput
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from rlkl.diagnostics.check.worlds import World
from rlkl.tasks.automaton import Automaton

MODEL_TYPE = "rlkl_table"
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] + ' ' }}{% endfor %}"


class TableConfig(PretrainedConfig):
    """The transitions of an automaton, and what the trainers read of a config."""

    model_type = MODEL_TYPE
    auto_map = {}  # type: ignore[var-annotated]  # noqa: RUF012  which TRL 1.16 reads; annotated, it would be a field

    def __init__(self, next_state: list[list[int]] = [[1, 1]], **rest: Any):  # noqa: B006  it is written to JSON
        self.next_state = next_state
        self.hidden_size, self.num_hidden_layers, self.num_attention_heads = len(next_state), 1, 1
        super().__init__(**{"tie_word_embeddings": False} | rest)
        self.vocab_size = len(next_state[0])


class TableBackbone(PreTrainedModel):
    """The hidden state at a token is the indicator of the automaton's state after it."""

    config_class = TableConfig
    base_model_prefix = "model"
    _supports_sdpa = _supports_attention_backend = True  # it has no attention

    def __init__(self, config: TableConfig):
        super().__init__(config)
        self.unused = nn.Parameter(torch.zeros(1))  # which trainers read dtype and device from
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        pass

    def forward(self, input_ids: torch.Tensor, attention_mask: Any = None, **_: Any) -> BaseModelOutputWithPast:
        next_state = torch.tensor(self.config.next_state)
        states, vocabulary = next_state.shape
        state, columns = torch.zeros_like(input_ids[:, 0]), []
        for token in input_ids.T:
            after = next_state[state, token.clamp(max=vocabulary - 1)]
            state = torch.where((token < vocabulary) & (after < states), after, 0)  # prompts begin anew; ends are masked
            columns.append(state)
        hidden = nn.functional.one_hot(torch.stack(columns, dim=1), states).to(self.unused.dtype)
        return BaseModelOutputWithPast(last_hidden_state=hidden + 0 * self.unused)


class TableForCausalLM(PreTrainedModel):
    """A policy whose parameters are its logits. completions: the rows that it generates."""

    config_class = TableConfig
    base_model_prefix = "model"
    _supports_sdpa = _supports_attention_backend = True
    completions: torch.Tensor

    def __init__(self, config: TableConfig):
        super().__init__(config)
        self.model = TableBackbone(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.generation_config = GenerationConfig()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        pass

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def get_input_embeddings(self) -> None:
        return None

    def forward(
        self, input_ids: torch.Tensor, attention_mask: Any = None, labels: Any = None, logits_to_keep: int = 0, **_: Any
    ) -> CausalLMOutputWithPast:
        hidden = self.model(input_ids, attention_mask).last_hidden_state
        return CausalLMOutputWithPast(logits=self.lm_head(hidden[:, -logits_to_keep:] if logits_to_keep else hidden))

    @torch.no_grad()
    def generate(self, input_ids: torch.Tensor, return_dict_in_generate: bool = False, **_: Any) -> Any:
        rows = torch.cat([input_ids, self.completions], dim=1)
        return GenerateDecoderOnlyOutput(sequences=rows) if return_dict_in_generate else rows

    @property
    def table(self) -> Float[np.ndarray, "D V"]:
        """The logits of each state."""
        return self.lm_head.weight.detach().numpy().T.copy()

    @torch.no_grad()
    def set_table(self, probabilities: Float[np.ndarray, "D V"]) -> None:
        """Set the probabilities of each state."""
        self.lm_head.weight.copy_(torch.tensor(np.log(probabilities)).T)


AutoConfig.register(MODEL_TYPE, TableConfig)
AutoModel.register(TableConfig, TableBackbone)
AutoModelForCausalLM.register(TableConfig, TableForCausalLM)


class Tables(TrainerCallback):
    """Keeps the policy's logits before each step and at the end of a training."""

    def __init__(self) -> None:
        self.seen: list[Float[np.ndarray, "D V"]] = []

    def on_step_begin(self, *_: Any, model: TableForCausalLM, **__: Any) -> None:
        self.seen.append(model.table)

    on_train_end = on_step_begin


def models(world: World, generated: Int[np.ndarray, " N"], folder: str) -> tuple[TableForCausalLM, TableForCausalLM]:
    """The policy and the reference of a world, in float64; the policy generates these sequences.

    Trainers that load a reference take it from where the policy came from: there the reference is, and the policy has moved.
    """
    reference = TableForCausalLM(TableConfig(world.automaton.next_state.tolist())).double()
    reference.set_table(world.reference)
    reference.save_pretrained(folder)
    policy = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    policy.set_table(world.policy)
    policy.completions = torch.tensor(world.batch.tokens[generated], dtype=torch.int64)
    policy.generation_config.eos_token_id = 0 if world.automaton.lengths_vary else None
    return policy, reference


def tokenizer(automaton: Automaton) -> PreTrainedTokenizerFast:
    """A tokenizer that writes tokens as their numbers."""
    prompt, end = automaton.vocabulary, 0 if automaton.lengths_vary else automaton.vocabulary + 1
    words = Tokenizer(WordLevel({str(i): i for i in range(automaton.vocabulary + 2)}, unk_token=str(prompt)))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token=str(prompt),
        eos_token=str(end),
        pad_token=str(end),
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
    )
