from .blend import blend_windows as blend_windows
