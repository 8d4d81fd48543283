"""The elementary functions of jax that rlkl uses, compiled with the options that users' programs are compiled with.

The tests themselves run with XLA's optimisations off (`rlkl.config.machine.UNOPTIMISED`), which hides its errors. This is why
this one runs in a process of its own. With these options `jnp.arctan` is wrong on CPUs with AVX-512 (jaxlib 0.10.2).
"""

import os
import subprocess
import sys

CODE = """
import jax, numpy as np, scipy.special as sp
import jax.numpy as jnp
from rlkl.exact.utility import Group, utility
from rlkl.training.blocks import COMPILER_OPTIONS

jax.config.update("jax_enable_x64", True)
FUNCTIONS = {
    "exp": (jnp.exp, np.exp),
    "expm1": (jnp.expm1, np.expm1),
    "log": (lambda x: jnp.log(jnp.abs(x)), lambda x: np.log(np.abs(x))),
    "log1p": (lambda x: jnp.log1p(jnp.abs(x)), lambda x: np.log1p(np.abs(x))),
    "sqrt": (lambda x: jnp.sqrt(jnp.abs(x)), lambda x: np.sqrt(np.abs(x))),
    "rsqrt": (lambda x: jax.lax.rsqrt(jnp.abs(x)), lambda x: 1 / np.sqrt(np.abs(x))),
    "sinh": (jnp.sinh, np.sinh),
    "cosh": (jnp.cosh, np.cosh),
    "tanh": (jnp.tanh, np.tanh),
    "sigmoid": (jax.nn.sigmoid, sp.expit),
    "log_sigmoid": (jax.nn.log_sigmoid, sp.log_expit),
    "softplus": (jax.nn.softplus, lambda x: np.logaddexp(0.0, x)),
    "logaddexp": (lambda x: jnp.logaddexp(x, 1.0 - x), lambda x: np.logaddexp(x, 1.0 - x)),
    "log_softmax": (jax.nn.log_softmax, sp.log_softmax),
    "utility of an infinite group": (lambda x: utility(Group(None), x), lambda x: 2 * np.arctan(np.exp(x / 2))),
    "utility of a group": (lambda x: utility(Group(3, "population"), x), lambda x: sp.expit(x) * np.sqrt(2)),
}
numbers = np.random.default_rng(0)
for name, (function, true) in FUNCTIONS.items():
    compiled = jax.jit(function, compiler_options=COMPILER_OPTIONS)
    for size in (3, 8, 17, 1000):
        x = 4 * numbers.normal(size=size)
        np.testing.assert_allclose(compiled(x), true(x), rtol=1e-12, atol=1e-12, err_msg=name)
print("compared")
"""


def test_elementary_functions_are_right_as_users_programs_compute_them():
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout == "compared\n", done.stderr
