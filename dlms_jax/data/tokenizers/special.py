"""The special tokens of the roles: padding, beginning, end, mask."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from dlms_jax.errors import UserError

ROLES = ("pad", "bos", "eos", "mask")
SPECIAL_TOKENS = tuple(f"<|{role}|>" for role in ROLES)
OURS: Mapping[str, str] = MappingProxyType(dict(zip(ROLES, SPECIAL_TOKENS, strict=True)))


def choose_roles(
    named: Mapping[str, str],
    own: Mapping[str, str] = MappingProxyType({}),
    usable: Callable[[str], bool] = lambda token: True,
) -> dict[str, str]:
    """Returns the special token of each role: four different tokens.

    They must differ, because objectives must predict EOS but never predict BOS, padding or mask.
    GPT-2, however, has one token for BOS and EOS, and Qwen one for padding and EOS.

    Args:
      named: the tokens that the user names; "" names none.
      own: the tokens that a tokenizer's file names. Its EOS is taken first, then BOS, padding and
        mask, each only if no other role has it. A role without a token gets one of OURS.
      usable: returns whether a token of `own` can be special.
    """
    roles = {role: token for role, token in named.items() if token}
    for role in ("eos", "bos", "pad", "mask"):
        token = own.get(role, "")
        fits = token and token not in roles.values() and usable(token)
        roles.setdefault(role, token if fits else OURS[role])
    for role in ROLES:
        others = [other for other in ROLES if other != role and roles[other] == roles[role]]
        if others:
            raise UserError(
                f"the special tokens of {role} and {others[0]} are both {roles[role]!r}; give each "
                f"its own in config.tokenizer.{role}_token and {others[0]}_token"
            )
    return {role: roles[role] for role in ROLES}


def all_special(roles: Mapping[str, str], further: Iterable[str]) -> list[str]:
    """Returns the tokens of the roles and the further ones, each once, in that order."""
    if "" in further:
        raise UserError("config.tokenizer.special_tokens has an empty token; remove it")
    return list(dict.fromkeys([*(roles[role] for role in ROLES), *further]))
