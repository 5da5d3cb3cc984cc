from hypothesis import settings

# On noisy machines, the duration of an example says nothing about the code.
settings.register_profile("project", deadline=None)
settings.load_profile("project")
