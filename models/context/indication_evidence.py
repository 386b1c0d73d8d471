"""What the indication adds to the features of the image before observations, regions and attributes are predicted."""

from torch import Tensor, nn

from models.layers.masking import masked_mean


class IndicationEvidence(nn.Module):
    """Linear of the mean state of the indication's words; zero without an indication.

    It is added to the mean patch and to the features of every region, whose heads are linear: each logit gets a term
    that depends on the indication alone, as the log-odds of naive Bayes would.
    """

    def __init__(self, width: int, channels: int):
        super().__init__()
        self.project = nn.Linear(width, channels)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """states [B, Q, D] of the words, mask [B, Q] -> [B, C]. Masked rows may have any value."""
        states = states.masked_fill(~mask.unsqueeze(-1), 0.0)
        return self.project(masked_mean(states, mask)) * mask.any(1, keepdim=True)
