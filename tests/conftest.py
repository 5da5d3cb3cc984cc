from hypothesis import settings

# Machines are noisy: what an example costs says nothing about the code.
settings.register_profile("project", deadline=None)
settings.load_profile("project")
