"""Video files and folders of images: open them and decode frames."""
