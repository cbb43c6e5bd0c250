"""Images drawn by code alone: endless training images without anybody's rights (`generator.draw_images`)."""
