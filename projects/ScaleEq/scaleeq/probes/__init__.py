"""Probes look at a model and change nothing: scales of branches, maps, parameters and multiply-adds.

Each is a block, `with probe(model) as record`: scales.Recorder, maps.capture_maps, maps.capture_fusions and
counting.counting. analysis.measure_scales and counting.count run the model in such a block.
"""
