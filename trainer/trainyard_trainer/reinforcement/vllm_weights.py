"""vLLM's interface for weights that a trainer sends, for weights that are in its process already: Ray has brought them, to the
actor that called for them and to nobody else, so no port is opened for it.
"""

from dataclasses import dataclass

from torch import Tensor
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

BACKEND = "trainyard"


@dataclass
class Start(WeightTransferInitInfo):
    """Nothing is agreed on before."""


@dataclass
class Update(WeightTransferUpdateInfo):
    """All weights, by their names in transformers' model."""

    weights: list[tuple[str, Tensor]]


class InProcess(WeightTransferEngine[Start, Update]):
    """Loads them as if they came from a file."""

    init_info_cls = Start
    update_info_cls = Update

    def init_transfer_engine(self, init_info: Start) -> None:
        """Nothing is to be connected."""

    def start_weight_update(self) -> None:
        """Parameters become what files have, whatever vLLM has made of them."""
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: Update) -> None:
        """Load them."""
        self.model.load_weights(update_info.weights)

    def finish_weight_update(self) -> None:
        """Parameters become what vLLM makes of them, in layers that something was loaded for. A head that has the embedding's
        weights is none of those.
        """
        finalize_layerwise_reload(self.model, self.model_config)
        head = getattr(self.model, "lm_head", None)
        if head is not None and self.model_config.hf_config.tie_word_embeddings:
            head.quant_method.process_weights_after_loading(head)

    def shutdown(self) -> None:
        """Nothing is held."""


def register() -> None:
    """Make it known to vLLM, once in a process."""
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, InProcess)
