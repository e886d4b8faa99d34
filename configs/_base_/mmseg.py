# Makes mmdysample's upsamplers and hosts known to an mmseg config.
custom_imports = dict(imports=["mmdysample.mmseg"], allow_failed_imports=False)
