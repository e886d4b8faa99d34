# Makes mmdysample's upsamplers and hosts known to an mmdet config.
custom_imports = dict(imports=["mmdysample.mmdet"], allow_failed_imports=False)
