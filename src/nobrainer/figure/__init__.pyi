from .charts import draw_metric as draw_metric
from .charts import draw_quality as draw_quality
from .charts import draw_reliability as draw_reliability
from .charts import draw_risk_coverage as draw_risk_coverage
from .charts import draw_structures as draw_structures
from .samples import draw_images as draw_images
from .slices import Picture as Picture
from .slices import draw_prediction as draw_prediction
