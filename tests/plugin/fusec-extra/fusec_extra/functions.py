"""A function that cannot be traced: how often x can be halved before it is below one."""

import fusec


@fusec.elementwise(name="Halvings", domain="com.example")
def halvings(x):
    count = 0.0
    while x >= 1.0:
        x = x / 2
        count += 1
    return count
