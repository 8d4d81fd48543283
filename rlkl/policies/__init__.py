"""Policy families, by name."""

from rlkl.policies import gaussian, tabular
from rlkl.policies.base import REGISTRY, Family, Policy, register
from rlkl.policies.fixed import Fixed

__all__ = ["REGISTRY", "Family", "Fixed", "Policy", "gaussian", "register", "tabular"]
