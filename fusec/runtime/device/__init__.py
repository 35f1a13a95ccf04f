"""Running plans on devices with memory of their own: a region is one launch, values stay there until somebody wants them."""
