"""Where heads and neurons lie in DistilBERT, which nobody has declared."""

DISTILBERT = {
    "layers": "transformer.layer",
    "heads": {
        "inputs": ["attention.q_lin", "attention.k_lin", "attention.v_lin"],
        "output": "attention.out_lin",
        "attention": "attention",
        "start": "attention",
        "stop": "sa_layer_norm",
        "residual": "attention",
    },
    "neurons": {
        "inputs": ["ffn.lin1"],
        "output": "ffn.lin2",
        "start": "ffn",
        "stop": "output_layer_norm",
        "residual": "ffn",
    },
}
