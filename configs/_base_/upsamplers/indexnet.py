# IndexNet (ICCV 2019), holistic index network: what the papers' tables compare with
upsample_cfg = dict(type="IndexNet", variant="hin")
