"""One model executed in two ways, which should agree: eager and compiled, on one device and on several."""

from lean_mnist.crosscheck.executions.compiled import check_compiled as check_compiled
from lean_mnist.crosscheck.executions.sharded import check_sharded as check_sharded
