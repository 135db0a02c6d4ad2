"""What a person or an image asks for: options, scenarios, manifests."""
