"""Image tokenizers: pictures to ids and back."""
