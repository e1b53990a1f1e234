"""From a folder of images and a folder of masks to lists, classes and a config that trains."""
