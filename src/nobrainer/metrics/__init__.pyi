from .surface import compare_surfaces as compare_surfaces
