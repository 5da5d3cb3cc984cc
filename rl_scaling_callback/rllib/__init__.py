"""The only package that knows RLlib's and Ray's keys, timers, API stacks and env runners.

Values that can't be read are NaN, with a reason to warn about.
"""
