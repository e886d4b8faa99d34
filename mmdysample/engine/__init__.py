"""mmengine's runtime as the tools use it.

Checks in front
  checks/         a config is checked before anything is built from it
  lookup.py       which class a `type` in a config names
  errors.py       a user's error is one sentence

Data
  data.py         a data set is checked before it is read, by ../{coco,images}.py and these below
  labels.py       label maps when they are read, and which images a directory holds
  depth_maps.py   depth maps: their files, size and unit, and that every image has one

Checkpoints
  reader.py       reads the files of torch.save, in which nothing can run
  unpickler.py    the pickle machine that it reads them with
  checkpoint.py   checkpoints from any source
  weights.py      the weights in a checkpoint, into a model that they fit
  hooks.py        an old checkpoint goes only when the new one is on the disk; what is not saved

Running and resuming
  runner.py       the Runner that puts these together
  resume.py       what --resume does
  seeding.py      the randomness of samples and iterations is a function of their place in the run
  nonfinite.py    a run whose loss or weights are not finite stops
  lock.py         one training run per work dir
  record.py       what a training was started with, for tools/results.py
  distributed.py  launchers and process groups, also without a GPU

The tools' command lines and outputs
  arguments.py    the command line that the tools share
  options.py      --cfg-options
  config.py       edits that a command line and a machine make to a config
  families.py     what differs between mmdet and mmseg
  outputs.py      the tools write away from the data, a test to what is new
  dump.py         predictions are written whole or not at all
  draw.py         a segmentor's predictions are drawn away from the run's records
"""
