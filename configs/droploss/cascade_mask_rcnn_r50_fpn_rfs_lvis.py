_base_ = "../sigmoid/cascade_mask_rcnn_r50_fpn_sigmoid_rfs_lvis.py"
model = dict(roi_head=dict(bbox_head=dict(loss_cls=dict(type="DropLoss"))))
