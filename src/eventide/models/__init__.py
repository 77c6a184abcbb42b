"""From a checkpoint directory to a model: configuration, weights, tokenizer; one file a model family.

    hub.resolve(model)                  a directory, a bundled model's name or a hub id → a directory
    registry.load_config(directory)     config.json → ModelConfig, by the family that its `architectures` names
    registry.find_family(...)           the family: configuration parser, weight map, program
    checkpoint.Checkpoint               safetensors files, memory-mapped and checked
    weights.iter_weights                the program's weights, one at a time, from a checkpoint or seeded (dummy)
    tokenizer.Tokenizer                 text ↔ token ids, chat template
    streaming                           token ids → text as it comes, stop strings
    generation.GenerationConfig         what generation_config.json asks for

To add a model, write one file here: a `ModelFamily` decorated by `registry.register_model`.
"""
