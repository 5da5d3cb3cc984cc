"""What happens while a trial runs.

`monitor` makes the dict to inject: `reading` tells an iteration's env steps, duration and load, `instruments` its phases and work
(`spent`, or `overlap` where sampling and learning overlap), and `colocation` whether other trials ran on its host. `options` are
the user's. `tuner` makes the trial faster, as far as `tuner_setup` allows.
"""
